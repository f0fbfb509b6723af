output "role_arn" {
  description = "Of the program: the annotation eks.amazonaws.com/role-arn of the chart's service account."
  value       = aws_iam_role.server.arn
}

output "instance_profile" {
  value = one(aws_iam_instance_profile.server[*].name)
}

output "settings" {
  description = "Settings of Registry Admin, by their names, except the external id, which is a secret."
  value = { for name, value in {
    DEPLOY_REGISTRY_HOST                  = "${local.account}.dkr.ecr.${local.region}.${data.aws_partition.current.dns_suffix}"
    DEPLOY_REGISTRY_NAMESPACE             = var.namespace
    DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN     = aws_iam_role.push.arn
    DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS   = join(",", var.probe_role_arns)
    DEPLOY_REGISTRY_ECR_BASE_REPOSITORIES = join(",", var.base_repositories)
    DEPLOY_REGISTRY_ECR_KMS_KEY           = var.repository_kms_key_arn
    RECONCILE_EVENTS_QUEUE_URL            = one(aws_sqs_queue.changes[*].url)
  } : name => value if value != null && value != "" }
}
