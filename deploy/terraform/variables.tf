variable "name" {
  description = "Begins the names of what is made."
  type        = string
  default     = "registry-admin"
}

variable "namespace" {
  description = "DEPLOY_REGISTRY_NAMESPACE: the first part of every repository's name."
  type        = string
  default     = "trigger"
}

# Who may be the program: a service account of an EKS cluster (IRSA), EC2 instances, or both.
variable "eks_oidc_provider_arn" {
  description = "ARN of the IAM OIDC provider of the cluster; null: no IRSA."
  type        = string
  default     = null
}

variable "eks_service_account" {
  description = "NAMESPACE:NAME of the chart's service account."
  type        = string
  default     = "registry-admin:registry-admin"
}

variable "ec2" {
  description = "Make an instance profile, too."
  type        = bool
  default     = false
}

variable "external_id" {
  description = "DEPLOY_REGISTRY_ECR_ASSUME_ROLE_EXTERNAL_ID, which the push role and the probe roles then require."
  type        = string
  default     = null
}

variable "probe_role_arns" {
  description = "DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS: outputs of the module probe-role in the consumer accounts."
  type        = list(string)
  default     = []
}

variable "base_repositories" {
  description = "DEPLOY_REGISTRY_ECR_BASE_REPOSITORIES: names or patterns that builds may pull from."
  type        = list(string)
  default     = []
}

variable "restore_archived_images" {
  description = "People may restore archived images in the console."
  type        = bool
  default     = false
}

variable "repository_kms_key_arn" {
  description = "DEPLOY_REGISTRY_ECR_KMS_KEY as an ARN; null: AES256."
  type        = string
  default     = null
}

variable "change_events" {
  description = "Make the queue and the rules for registry-admin events. The account needs a CloudTrail trail."
  type        = bool
  default     = true
}

variable "queue_customer_key" {
  description = "Encrypt the queue with a KMS key of its own; false: with SQS's key, which costs nothing."
  type        = bool
  default     = false
}

variable "tags" {
  type    = map(string)
  default = {}
}
